import pytest

from rwkvclip_models import device
from rwkvclip_models.device import resolve_device
from rwkvclip_models.errors import UserError


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_is_one_device(name):
    assert resolve_device(name).type == "cpu"


@pytest.mark.parametrize("name", ["cpu:1", "cpu:5", "cpu:127"])
def test_another_cpu_is_refused(name):
    with pytest.raises(UserError, match=f"Device '{name}' asked for, but there is one CPU device: give cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cpu:-1", "cpu:x", "cpu:99999999999", "cpu:", "gpu", "meta"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(UserError):
        resolve_device(name)


@pytest.mark.parametrize(
    ("asked", "expected"), [("1", 1), ("3,2", 3), ("", 7), ("0", 7), ("many", 7), (None, 7)]
)
def test_threads_are_as_many_as_the_environment_says_else_as_cores(asked, expected, monkeypatch):
    monkeypatch.setattr(device, "num_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert device.num_threads() == expected
