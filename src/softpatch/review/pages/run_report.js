"use strict";
/* Shows the images of one verdict, or all. */
{
  const filters = document.getElementById("filters");
  const images = [...document.querySelectorAll("[data-verdict]")];
  const passes = {
    all: () => true,
    unlike: (image) => "unlike" in image.dataset,
  };

  function show(name) {
    const isShown = passes[name] ?? ((image) => image.dataset.verdict === name);
    for (const image of images) image.hidden = !isShown(image);
    for (const button of filters.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === name));
    }
    const listed = document.getElementById("listed");
    if (listed) listed.hidden = !listed.querySelector("[data-verdict]:not([hidden])");
    const count = images.filter(isShown).length;
    document.getElementById("shown").textContent = `${count} shown`;
  }

  for (const button of filters.querySelectorAll("button")) {
    button.addEventListener("click", () => show(button.dataset.filter));
  }
  filters.hidden = false;
  show("all");
}
