"""The exceptions that softpatch raises on purpose. Each message is one sentence that a user can act on."""


class SoftPatchError(Exception):
    """Base of every error that softpatch raises on purpose; catch it to catch them all."""


class InputError(SoftPatchError, ValueError):
    """A setting, an image, a folder or a tensor is not what was asked for."""


class ImageError(SoftPatchError):
    """A file cannot be used as an image: it is empty, cut short, not an image, or absurdly large."""


class WeightsError(SoftPatchError):
    """The backbone's weights cannot be found, read or trusted."""


class ModelFileError(SoftPatchError):
    """A model file is cut short, altered, of another format, or belongs to other backbone weights."""


class ExportError(SoftPatchError):
    """A model cannot be made a graph, or the graph does not say what the model says."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch says that memory could not be had."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
