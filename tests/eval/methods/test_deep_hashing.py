import numpy as np
import pytest
import torch

from faiss_pqvae.eval.methods.deep_hashing import DeepHashing, forward, objective


@pytest.fixture(scope="module")
def x():
    generator = np.random.default_rng(0)
    return (generator.normal(size=(1000, 32)) / np.sqrt(np.arange(1, 33))).astype(np.float32)


@pytest.fixture(scope="module")
def trained(x):
    index = DeepHashing(32, 8, steps=60)
    index.train(x)
    return index


def test_objective__by_hand():
    """One layer W = [[1, 0], [1, 1]], c = [0, 2], and outputs of two vectors."""
    layers = [(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([0.0, 2.0]))]
    h = torch.tensor([[0.5, -0.5], [0.0, 0.5]])
    # B = [[1, -1], [-1, 1]]: (.25 + .25 + 1 + .25) / 4; means .25 and 0: (.125 + .5) / 4;
    # W W^T - I = [[0, 1], [1, 1]]: 3 / 2; ||W||^2 + ||c||^2 = 3 + 4: 7 / 2.
    J1, J2, J3, J4 = 0.4375, 0.15625, 1.5, 3.5
    for weights in ((0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (0.0, 10.0, 0.0), (2.0, 3.0, 5.0)):
        expected = J1 - weights[0] * J2 + weights[1] * J3 + weights[2] * J4
        assert float(objective(layers, h, *weights)) == pytest.approx(expected)


def test_objective__sums_over_layers():
    eye = (torch.eye(2), torch.zeros(2))
    h = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    # Codes lose nothing, their variance is 1 a bit, layers are orthonormal: 2 * 2 / 2 of size.
    assert float(objective([eye, eye], h, 1.0, 1.0, 1.0)) == pytest.approx(0 - 1 + 0 + 2)


def test_forward__by_hand():
    layers = [
        (torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])),
        (torch.tensor([[3.0], [-1.0]]), torch.tensor([0.0, 1.0])),
    ]
    hidden = np.tanh(1 * 0.1 + 2 * 0.2 + 0.5)
    found = forward(layers, torch.tensor([[0.1, 0.2]]))
    np.testing.assert_allclose(found, [[np.tanh(3 * hidden), np.tanh(1 - hidden)]], rtol=1e-6)


def test_deep__the_objective_falls(trained):
    assert len(trained.history) == 60
    assert np.mean(trained.history[-10:]) < np.mean(trained.history[:10])


def test_deep__layers_stay_nearly_orthonormal_and_bits_balanced(trained, x):
    assert [tuple(weight.shape) for weight, _ in trained.layers] == [(16, 32), (12, 16), (8, 12)]
    for weight, _ in trained.layers:
        products = weight @ weight.T
        assert float((products - torch.eye(len(weight))).abs().max()) < 0.1
    assert np.abs(trained.encode(x).mean(0) - 0.5).max() < 0.1


def test_deep__search_is_by_hamming_distance(trained, x):
    trained.add(x[:600])
    trained.add(x[600:])
    D, ids = trained.search(x[:7], 40)
    bits = trained.encode(x)
    h = forward(trained.layers, (torch.tensor(x[:7]) - trained._mean) / trained._scale)
    np.testing.assert_array_equal(bits[:7], h.numpy() > 0)
    distances = (bits[:7, None] != bits[None]).sum(-1)
    np.testing.assert_array_equal(D, np.sort(distances, axis=1)[:, :40])
    np.testing.assert_array_equal(np.take_along_axis(distances, ids, 1), D)
    assert trained.sa_code_size() == 1


def test_deep__is_repeated_by_its_seed_and_leaves_torch_alone(x):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    codes = []
    for seed in (1, 1, 2):
        index = DeepHashing(32, 8, seed=seed, steps=5)
        index.train(x)
        codes.append(index.encode(x))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(codes[0], codes[1])
    assert not np.array_equal(codes[0], codes[2])


def test_deep__does_not_change_what_it_learns_from(x):
    before = x.copy()
    DeepHashing(32, 8, steps=1).train(x)
    np.testing.assert_array_equal(x, before)


def test_deep__says_when_it_diverged(x):
    with pytest.raises(ValueError, match="diverged with a learning rate of 1e"):
        DeepHashing(32, 8, steps=3, learning_rate=1e30).train(x)


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"batch_size": 1}, {"learning_rate": 0.0}])
def test_deep__rejects_settings(arguments):
    with pytest.raises(ValueError, match="expected steps >= 1"):
        DeepHashing(4, 8, **arguments)
