"""What float16 storage keeps of attention maps and features, against numpy in float64."""

import numpy as np
import pytest
import torch

from flmm.features.half_precision import pack_tensors, unpack_tensors

CPU = torch.device("cpu")


def store(tensor, storage="float16", row_dims=2):
    stored = pack_tensors({"maps": tensor}, storage, row_dims)
    return stored, unpack_tensors(stored, CPU)["maps"]


@pytest.fixture
def maps():
    """Rows of values between 1 and 1e-12 of their greatest, which is between 1e-30 and 1e30."""
    rng = np.random.default_rng(0)
    values = 10.0 ** rng.uniform(-12, 0, (3, 40, 12, 16))
    values[:, :, 0, 0] = 1
    return torch.from_numpy(values * 10.0 ** rng.uniform(-30, 30, (3, 40, 1, 1))).float()


def test_errors_stay_below_the_promised_bounds(maps):
    stored, found = store(maps)
    assert stored["maps"].dtype == torch.float16
    true, found = maps.double().numpy(), found.double().numpy()
    greatest = true.max((-2, -1), keepdims=True)
    error, is_large = np.abs(found - true), true >= 2.0**-28 * greatest
    assert 0.2 < is_large.mean() < 0.9
    assert (error / true)[is_large].max() <= 2.0**-11
    assert (error / greatest)[~is_large].max() <= 2.0**-39


def test_logarithms_survive(maps):
    """Plain float16 turns most small attention weights into zeros, whose logarithm is infinite."""
    maps = maps / maps.sum((-2, -1), keepdim=True) * (maps / maps.amax((-2, -1), True) > 1e-8)
    kept, plain = store(maps)[1], maps.half().float()
    inside = maps > 0
    assert (plain[inside] == 0).float().mean() > 0.05
    assert (kept[inside].log() - maps[inside].log()).abs().max() < 5e-4
    assert (kept[~inside] == 0).all()


def test_large_features_do_not_overflow():
    features = torch.randn(2, 5, 64)
    features[0, 0, 3] = 2e5  # such outliers are common in language models
    found = store(features, row_dims=1)[1]
    torch.testing.assert_close(found, features, rtol=2**-11, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3e38, -3e38])
def test_rows_of_any_magnitude(value):
    tensor = torch.full((1, 1, 2, 2), value)
    torch.testing.assert_close(store(tensor)[1], tensor, rtol=2**-11, atol=1e-44)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_dtypes_of_two_bytes_and_integers_are_kept_as_they_are(dtype):
    tensor = (torch.randn(2, 3, 4, 4) * 100).to(dtype)
    stored, found = store(tensor)
    assert list(stored) == ["maps"]
    assert found.dtype == dtype and torch.equal(found, tensor)


def test_float32_storage_is_exact(maps):
    found = store(maps, "float32")[1]
    assert found.dtype == torch.float32 and torch.equal(found, maps)


def test_values_that_are_not_finite_are_kept():
    tensor = torch.tensor([[[[1.0, float("inf")], [float("nan"), 1e-9]]]])
    torch.testing.assert_close(store(tensor)[1], tensor, rtol=0, atol=0, equal_nan=True)


def test_what_is_stored_has_memory_of_its_own(maps):
    for storage in ("float16", "float32"):
        stored, before = pack_tensors({"maps": maps[:1]}, storage, 2), maps[:1].clone()
        assert stored["maps"].untyped_storage().nbytes() == stored["maps"].nbytes
        unpack_tensors(stored, CPU)["maps"].zero_()
        torch.testing.assert_close(
            unpack_tensors(stored, CPU)["maps"],
            before,
            rtol=2**-11,
            atol=0 if storage == "float32" else 1e20,
        )
