import pytest

from wnet_nb.errors import UserError, explain


@pytest.mark.parametrize(
    "error, said",
    [
        (UserError("give a TIFF"), "give a TIFF"),
        (FileNotFoundError(2, "No such file or directory", "a.tif"), "'a.tif': No such file"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "lower batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "lower batch_size"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, said):
    assert said in explain(error)


@pytest.mark.parametrize(
    "error", [ValueError("operands could not be broadcast"), KeyError("x"), RuntimeError("odd")]
)
def test_a_mistake_of_ours_is_explained_by_its_traceback(error):
    assert explain(error) is None
