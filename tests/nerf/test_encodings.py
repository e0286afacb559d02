import pytest
import torch

from gd_core.nerf import EncodingConfig
from gd_core.nerf.encodings import HashGrid, VMPlanes, make_encoding

CPU = torch.device("cpu")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_vm_planes_are_sums_of_plane_times_line():
    encoding = VMPlanes(EncodingConfig(resolution=5, channels=2), generator())
    i, j, k = 1, 3, 2  # a node of the grid: no interpolation
    feature = encoding(torch.tensor([[i, j, k]]) / 4)[0]
    planes, lines = encoding.planes, encoding.lines[..., 0]
    expected = [planes[0, :, j, i] * lines[0, :, k], planes[1, :, k, i] * lines[1, :, j], planes[2, :, k, j] * lines[2, :, i]]
    torch.testing.assert_close(feature, torch.cat(expected))


def test_resized_planes_say_the_same_at_their_nodes():
    encoding = VMPlanes(EncodingConfig(resolution=5, channels=2), generator())
    nodes = torch.cartesian_prod(*[torch.linspace(0, 1, 5)] * 3)
    before = encoding(nodes)
    encoding.resize(9)
    torch.testing.assert_close(encoding(nodes), before)


def test_variation_is_that_of_neighbouring_texels():
    planes = VMPlanes(EncodingConfig(resolution=4, channels=1), torch.Generator())
    with torch.no_grad():
        planes.planes.copy_(torch.arange(4.0).expand(3, 1, 4, 4))  # a slope of 1 a texel, in one direction
        planes.lines.fill_(0.3)
    assert planes.variation().item() == 1.0


def test_hash_levels_have_the_sizes_of_tiny_cuda_nn():
    encoding = HashGrid(EncodingConfig("hash"), generator())
    assert encoding.resolutions[0] == 16 and encoding.sizes[0] == 16**3
    assert encoding.resolutions[-1] == 4096 and encoding.sizes[-1] == 2**19
    assert encoding.params.numel() == 2 * sum(encoding.sizes)


def test_hash_grid_interpolates_and_learns_where_it_looks():
    encoding = HashGrid(EncodingConfig("hash", levels=4, log2_table=10, base_resolution=4), generator())
    points = torch.rand(64, 3, generator=generator())
    features = encoding(points)
    assert features.shape == (64, 8) and encoding.features == 8
    near = encoding((points + 1e-5).clamp(max=1))
    assert (near - features).abs().max() < 1e-6  # continuous
    features.sum().backward()
    assert encoding.params.grad.abs().sum() == pytest.approx(64 * 8, rel=1e-4)  # the eight weights of a corner sum to one


def test_the_same_seed_gives_the_same_encoding_whatever_ran_before():
    first = make_encoding(EncodingConfig(resolution=8), CPU, generator())
    torch.rand(3)
    second = make_encoding(EncodingConfig(resolution=8), CPU, generator())
    assert torch.equal(first.planes, second.planes) and torch.equal(first.lines, second.lines)


def test_an_unknown_encoding_is_named():
    with pytest.raises(ValueError, match="'octree'.*vm, hash"):
        EncodingConfig("octree")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tiny_cuda_nn_agrees_with_the_plain_hash_grid():
    pytest.importorskip("tinycudann")
    config = EncodingConfig("hash", levels=6, log2_table=14)
    plain = HashGrid(config, generator()).cuda()
    fast = make_encoding(config, torch.device("cuda"), generator())
    fast.load_state_dict(plain.state_dict())
    points = torch.rand(4096, 3, generator=generator()).cuda()
    torch.testing.assert_close(fast(points).float(), plain(points), atol=1e-3, rtol=1e-3)
