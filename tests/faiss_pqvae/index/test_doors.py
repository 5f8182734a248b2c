"""Other people's networks in an index: their weights, and how they come back with a bundle."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import faiss_pqvae as fpq
from faiss_pqvae import Backbone, ModelConfig, TrainingConfig, index_factory, read_index
from faiss_pqvae.index import bundle

SHAPE = (3, 8, 8)
TRAINING = TrainingConfig(epochs=1, batch_size=32, precision="float32", device="cpu")


class Net(nn.Module):
    """A pretrained network, as people have them: batch norm, dropout, features of four axes."""

    def __init__(self, features=6, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(3, features, 3, stride=2, padding=1),
                nn.BatchNorm2d(features),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.AdaptiveAvgPool2d(2),
            )

    def forward(self, x):
        return self.layers(x)


def make(input_shape, latent_dim, *, width):
    """What "package.module:attribute" may name."""
    return Net()


def images(n=120, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(encoder, description="PQVAE4x4", **options):
    index = index_factory(SHAPE, description, training=TRAINING, encoder=encoder, **options)
    given = [np.arange(120) % 4] if description.startswith("D") else []
    index.train(images(), *given, progress=False)
    index.add(images())
    return index


@pytest.mark.parametrize("description", ["PQVAE4x4", "IVF4,PQVAE4x4", "DPQ2x4", "PQVAE4x4,RFlat"])
def test_frozen__keeps_its_weights_to_the_bit(description):
    net = Net()
    before = weights(net)
    index = trained(Backbone(net, trainable=False), description)
    assert same(weights(net), before)
    assert same(weights(index.front.backbone.module), before)
    assert index.model.input_shape == (24,)
    assert index.input_shape == SHAPE
    _, I = index.search(images()[:5], 1)  # noqa: E741
    assert I.shape == (5, 1)
    # What it learned is a code of the features, computed with running statistics.
    with torch.no_grad():
        features = net.eval()(torch.from_numpy(images()[:4]).float() / 255).flatten(1)
    expected = index.model.encode(features).detach().numpy()
    np.testing.assert_allclose(index.encode(images()[:4]), expected, atol=1e-5)


def test_frozen__is_run_once_over_what_is_trained_with():
    seen = []
    net = Net()
    net.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    index = index_factory(
        SHAPE,
        "PQVAE4x4",
        training=TrainingConfig(epochs=5, batch_size=16, precision="float32"),
        model=ModelConfig(encoder=None, objective="contrastive", width=8),
        encoder=Backbone(net, trainable=False),
    )
    index.train(images(), progress=False)
    assert sum(seen) <= 120 + 4  # the items, and a trial when it was built


@pytest.mark.parametrize(
    ("description", "objective"),
    [("PQVAE4x4", None), ("PQVAE4x4", "contrastive"), ("DQN4x4", None)],
)
def test_fine_tuned__moves_a_little_and_the_callers_stays(description, objective):
    net = Net()
    before = weights(net)
    index = trained(Backbone(net, lr=1e-4), description, objective=objective)
    assert same(weights(net), before)
    after = weights(index.model.backbone.module)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("0.weight" in name for name in moved)
    for name in before:
        if "running" not in name and "tracked" not in name:
            assert (before[name] - after[name]).abs().max() < 0.01


def test_module__as_it_is_learns_along():
    index = trained(Net())
    assert index.model.backbone.trainable
    assert index.front is None


def test_untrained_index__has_the_weights_that_were_handed_in():
    net = Net(seed=3)
    index = index_factory(SHAPE, "PQVAE4x4", encoder=net)
    assert same(weights(index.model.backbone.module), weights(net))


def test_backbone__gets_the_size_and_the_numbers_that_it_wants():
    seen = []
    net = Net()
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    backbone = Backbone(net, trainable=False, size=12, mean=(0.5, 0.4, 0.3), deviation=0.25)
    index = trained(backbone)
    index.encode(np.full((1, *SHAPE), 255, np.uint8))
    last = seen[-1]
    assert last.shape == (1, 3, 12, 12)
    expected = torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1) / 0.25
    torch.testing.assert_close(last, expected.expand_as(last))


def _fingerprint(index):
    D, I = index.search(images(9, seed=1), 3)  # noqa: E741
    return D.tobytes(), I.tobytes()


@pytest.mark.parametrize("trainable", [True, False])
def test_bundle__comes_back_with_the_encoder(tmp_path, trainable):
    net = Net()
    index = trained(Backbone(net, trainable=trainable, size=10, mean=0.3))
    fpq.write_index(index, tmp_path)
    # Of one that learned the bundle has the weights, of a frozen one its owner.
    again = read_index(tmp_path, encoder=Net(seed=5) if trainable else Net())
    assert _fingerprint(again) == _fingerprint(index)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["format"] == bundle.FORMAT
    assert config["encoder"]["reference"].endswith(":Net")
    assert ("sha256" in config["encoder"]) == (not trainable)
    size = next(tmp_path.glob("model-*")).stat().st_size
    assert (size > sum(p.nbytes for p in net.parameters())) == trainable or not trainable


PEOPLE = """
import torch
from torch import nn
from faiss_pqvae import Backbone

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))

def tuned(input_shape, latent_dim, *, width):
    return Backbone(net(), reference="people:tuned")

def frozen(input_shape, latent_dim, *, width):
    return Backbone(net(), trainable=False, reference="people:frozen")
"""
PROCESS = """
import sys, numpy as np, torch
torch.set_num_threads(1)
import faiss_pqvae as fpq
x = np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8), dtype=np.uint8)
for encoder in ("people:tuned", "people:frozen"):
    folder = encoder.partition(":")[2]
    if sys.argv[1] == "write":
        how = fpq.TrainingConfig(epochs=1, batch_size=16, precision="float32")
        index = fpq.index_factory((3, 8, 8), "PQVAE4x4", training=how, encoder=encoder)
        index.train(x, progress=False)
        index.add(x)
        fpq.write_index(index, folder)
    else:
        index = fpq.read_index(folder, encoder=encoder)
    D, I = index.search(x[:7], 3)
    print(D.tobytes().hex(), I.tobytes().hex())
"""


def test_bundle__comes_back_in_a_new_process(tmp_path):
    (tmp_path / "people.py").write_text(PEOPLE)
    told = [
        subprocess.run(
            [sys.executable, "-c", PROCESS, what],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        ).stdout
        for what in ("write", "read")
    ]
    assert told[0] == told[1] != ""
    assert len(told[0].splitlines()) == 2


def test_bundle__without_the_encoder_says_what_to_pass(tmp_path):
    backbone = Backbone(
        Net(), trainable=False, reference="timm:create_model", arguments={"model_name": "resnet18"}
    )
    fpq.write_index(trained(backbone), tmp_path)
    message = (
        r"encoder is not ours.*pass 'timm:create_model' made with model_name='resnet18' as "
        r"read_index\(path, encoder=\.\.\.\)"
    )
    with pytest.raises(ValueError, match=message):
        read_index(tmp_path)
    assert "timm" not in sys.modules


def test_bundle__refuses_another_frozen_encoder(tmp_path):
    fpq.write_index(trained(Backbone(Net(), trainable=False)), tmp_path)
    with pytest.raises(ValueError, match=r"not the one that the codes were learned behind.*sha256"):
        read_index(tmp_path, encoder=Net(seed=1))
    with pytest.raises(ValueError, match="not the one"):
        read_index(tmp_path, encoder=Net(features=7))


def test_bundle__refuses_a_learned_encoder_of_other_shapes(tmp_path):
    fpq.write_index(trained(Net()), tmp_path)
    with pytest.raises(ValueError, match="network that was handed in: expected encoder="):
        read_index(tmp_path, encoder=Net(features=7))


def test_bundle__of_ours_wants_no_encoder(tmp_path, make_index):
    fpq.write_index(make_index(n=3), tmp_path)
    with pytest.raises(ValueError, match="expected encoder=None"):
        read_index(tmp_path, encoder=Net())
    with pytest.raises(ValueError, match="expected decoder=None"):
        read_index(tmp_path, decoder=nn.Identity())


@pytest.mark.parametrize("name", ["os:system", "people:make", "vit"])
def test_bundle__imports_nothing_because_a_file_names_it(tmp_path, make_index, name, monkeypatch):
    fpq.write_index(make_index(n=3), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["config"]["encoder"] = name
    config["sha256"] = bundle._config_hash(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr("importlib.import_module", lambda *a: asked.append(a))
    with pytest.raises(ValueError, match=r"not ours|expected an encoder"):
        read_index(tmp_path)
    assert all(a[0].startswith("faiss_pqvae.") for a in asked)


class Decoder(nn.Module):
    def __init__(self, out=192):
        super().__init__()
        self.map = nn.Linear(64, out)

    def forward(self, z):
        return self.map(z).view(len(z), *SHAPE)


def test_decoder__of_somebody_learns_and_comes_back(tmp_path):
    net = Decoder()
    before = weights(net)
    index = index_factory(SHAPE, "PQVAE4x4", training=TRAINING, decoder=net)
    index.train(images(), progress=False)
    index.add(images())
    assert same(weights(net), before)
    assert not same(weights(index.model.decoder), before)
    fpq.write_index(index, tmp_path)
    with pytest.raises(ValueError, match=r"decoder is not ours.*decoder=\.\.\."):
        read_index(tmp_path)
    again = read_index(tmp_path, decoder=Decoder())
    z = index.encode(images()[:3])
    np.testing.assert_array_equal(again.decode(z), index.decode(z))


def test_registered__by_name(register):
    register(fpq.encoders, "net", make)
    index = trained("net")
    assert index.model.config.encoder == "net"
    assert isinstance(index.model.backbone.module, Net)
    # The name of the model's settings is the same door.
    again = index_factory(SHAPE, "PQVAE4x4", model=ModelConfig(encoder="net"))
    assert same(weights(again.model.backbone.module), weights(Net()))


@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (3, TypeError, "expected a name, 'package.module:attribute' or a torch.nn.Module"),
        ("nonsense", ValueError, "expected an encoder of 'conv'"),
        ("no.such.module:make", ValueError, "expected an encoder as 'package.module:attribute'"),
        ("numpy:pi", TypeError, "torch.nn.Module as encoder, got float"),
        (nn.Conv2d(1, 2, 3), ValueError, r"items of shape \(3, 8, 8\), but torch.*cannot take"),
        (nn.LSTM(8, 4), ValueError, "encoder"),
    ],
)
def test_encoder__says_what_is_wrong(encoder, error, message):
    with pytest.raises(error, match=message):
        index_factory(SHAPE, "PQVAE4x4", encoder=encoder)


def test_model_config__names_the_door_for_a_module():
    with pytest.raises(TypeError, match=r"index_factory\(\.\.\., encoder=\.\.\.\)"):
        ModelConfig(encoder=Net())


def test_decoder__of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected a decoder to items of shape \(3, 8, 8\)"):
        index_factory(SHAPE, "PQVAE4x4", decoder=nn.Linear(64, 5))


def test_index__with_an_encoder_is_copied_and_pickled():
    for trainable in (True, False):
        index = trained(Backbone(Net(), trainable=trainable))
        assert _fingerprint(copy.deepcopy(index)) == _fingerprint(index)


def test_vectors__of_a_frozen_network_have_transforms_and_start_at_opq():
    net = nn.Sequential(nn.Linear(10, 12), nn.Tanh())
    x = np.random.default_rng(0).standard_normal((400, 10), dtype=np.float32)
    index = index_factory(
        10, "L2norm,PCA8,PQVAE4x4", training=TRAINING, encoder=Backbone(net, trainable=False)
    )
    index.train(x, progress=False)
    index.add(x)
    assert "start" in index.history[0]
    assert (index.transforms.d_in, index.model.input_shape) == (12, (8,))
    assert (index.search(x[:50], 10)[1] == np.arange(50)[:, None]).any(1).mean() > 0.8


def test_frozen__features_are_coded_by_the_encoder_that_the_settings_name():
    model = ModelConfig(encoder="mlp", width=8)
    index = trained(Backbone(Net(), trainable=False), model=model)
    assert (index.model.config.encoder, index.model.input_shape) == ("mlp", (24,))
    assert "start" not in index.history[0]


class Sized(nn.Module):
    """As wide as it was asked to be, and one weight under two names."""

    def __init__(self, d, activation):
        super().__init__()
        self.first = nn.Linear(int(np.prod(SHAPE)), d)
        self.again = self.first
        self.activation = activation
        # What a mask of attention has.
        self.register_buffer("mask", torch.tensor([0.0, -float("inf")]))

    def forward(self, x):
        return self.activation(self.again(x.flatten(1)))


def make_sized(input_shape, latent_dim, *, width, activation=torch.tanh):
    """A network that needs what it is made with."""
    torch.manual_seed(0)
    return Sized(latent_dim + width, activation)


@pytest.mark.parametrize("trainable", [True, False])
def test_bundle__of_a_network_made_for_the_code_comes_back_twice(tmp_path, register, trainable):
    register(fpq.encoders, "sized", make_sized)
    encoder = Backbone(make_sized(SHAPE, 16, width=8), trainable=trainable, reference="sized")
    index = trained("sized" if trainable else encoder)
    _, expected = index.search(images()[:7], 5)
    for name in ("a", "b"):
        fpq.write_index(index, tmp_path / name)
        index = read_index(tmp_path / name, encoder="sized" if trainable else encoder)
        _, I = index.search(images()[:7], 5)  # noqa: E741
        np.testing.assert_array_equal(I, expected)


@pytest.mark.parametrize("trainable", [True, False])
def test_bundle__refuses_the_same_weights_with_another_activation(tmp_path, trainable):
    index = trained(Backbone(make_sized(SHAPE, 16, width=8), trainable=trainable))
    fpq.write_index(index, tmp_path / "a")
    other = make_sized(SHAPE, 16, width=8, activation=torch.sin)
    with pytest.raises(ValueError, match="gives other features than the one that the codes"):
        read_index(tmp_path / "a", encoder=Backbone(other, trainable=trainable))


def test_frozen__that_is_trained_further_is_not_written(tmp_path):
    net = Net()
    index = trained(Backbone(net, trainable=False))
    with torch.no_grad():
        net.layers[0].weight.add_(1)
    with pytest.raises(ValueError, match="weights"):
        fpq.write_index(index, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_decoder__of_vectors_is_used():
    class Decoder(nn.Linear):
        pass

    index = index_factory(16, "PQVAE4x4", training=TRAINING, decoder=Decoder(16, 16))
    x = np.random.default_rng(0).normal(size=(80, 16)).astype(np.float32)
    index.train(x, progress=False)
    assert isinstance(index.model.decoder, Decoder)


def test_train__of_vectors_fewer_than_dimensions():
    x = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
    index = index_factory(64, "PQVAE4x4", training=TRAINING)
    index.train(x, progress=False)
    index.add(x)
    assert index.ntotal == 60


@pytest.mark.parametrize("door", ["encoder", "decoder"])
def test_maker__of_other_arguments_is_told_what_they_are(door):
    with pytest.raises(TypeError, match=r"make\(input_shape, latent_dim, \*, width\)"):
        index_factory(SHAPE, "PQVAE4x4", **{door: lambda: Net()})


def test_bundle__a_maker_that_makes_nothing_is_no_damage(tmp_path):
    fpq.write_index(trained(Backbone(Net(), trainable=False)), tmp_path / "a")
    with pytest.raises(ValueError, match="a function make") as caught:
        read_index(tmp_path / "a", encoder="torch.nn.modules.container:Sequential")
    assert "damaged" not in str(caught.value)
