"""Networks that are not ours, in a bundle: what it keeps of them, and how they come back."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, TypedDict

from torch import nn

from faiss_pqvae.index.front import Front
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.backbone import Backbone, alike
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.fine_tuned import in_two
from faiss_pqvae.model.networks import is_pretrained, resolved_decoder, resolved_encoder
from faiss_pqvae.model.pqvae import PQVAE, latent_dim_of
from faiss_pqvae.model.spec import CodeSpec
from faiss_pqvae.registry import encoders

Record = dict[str, Any]


def backbone_of(index: LatentIndex) -> Backbone | None:
    """The encoder that was handed in, frozen or learning along; None for one of ours."""
    return index.model.backbone if index.front is None else index.front.backbone


def record_of_encoder(index: LatentIndex) -> Record | None:
    """What a bundle keeps of an encoder that was handed in; plain values.

    Of a frozen one a hash of the weights, which stay with its owner; the weights of one that
    learned along are among those of the model.

    Raises:
        ValueError: a frozen one whose weights changed since the training, or one that gives other
            features for the same items.
    """
    front, backbone = index.front, index.model.backbone
    if front is not None:
        fingerprint = front.fingerprint()
        if front.learned_behind not in (None, fingerprint):
            raise ValueError(
                f"the frozen encoder {front.backbone.reference} has other weights than when the "
                "codes were learned behind it: give it those again, or train anew"
            )
        found = {
            **front.backbone.record(),
            "input_shape": list(front.input_shape),
            "sha256": fingerprint,
            "probe": front.probe(),
        }
        if backbone is not None:  # the last parts of the same network
            found["learned_probe"] = backbone.probe(index.model.input_shape)
        return found
    if backbone is None:
        return None
    return {**backbone.record(), "probe": backbone.probe(index.model.input_shape)}


def record_of_decoder(model: PQVAE) -> Record | None:
    """What a bundle keeps of a decoder that was handed in; its weights are the model's."""
    return None if model.decoder_is_ours else {"reference": model.config.decoder, "arguments": {}}


class HandedIn(TypedDict, total=False):
    """The networks that `PQVAE` takes."""

    encoder: nn.Module
    decoder: nn.Module


class Given(NamedTuple):
    """What the caller hands in for a bundle, beside what the bundle says of it.

    Attributes:
        encoder: a module, a name or a reference, where the bundle has a record of one.
        decoder: likewise.
        encoder_record: see `record_of_encoder`.
        decoder_record: see `record_of_decoder`.
    """

    encoder: Any
    decoder: Any
    encoder_record: Record | None
    decoder_record: Record | None

    @classmethod
    def of(cls, config: dict[str, Any], encoder: Any, decoder: Any) -> Given:
        """Checks that what is handed in is what the bundle asks for.

        Args:
            config: of the bundle.
            encoder: as the caller handed it in, or None.
            decoder: likewise.

        Raises:
            ValueError: something that is missing, with what to pass, or that is not asked for; a
                damaged record.
        """
        records = (_record(config, "encoder"), _record(config, "decoder"))
        if encoder is None and records[0] and is_pretrained(encoders, records[0]["reference"]):
            encoder = records[0]["reference"]
        for name, given, record in zip(
            ("encoder", "decoder"), (encoder, decoder), records, strict=True
        ):
            if record is None and given is not None:
                raise ValueError(f"the bundle has {name}s of ours only: expected {name}=None")
            if record is not None and given is None:
                raise ValueError(
                    f"the bundle's {name} is not ours and has to be handed in, for a file imports "
                    f"no code: pass {_described(record)} as read_index(path, {name}=...), or in a "
                    f"shell --{name} package.module:attribute"
                )
        return cls(encoder, decoder, *records)

    def networks(
        self, shape: tuple[int, ...], config: ModelConfig, spec: CodeSpec, M: int
    ) -> HandedIn:
        """What `PQVAE` is handed, in copies, which will get the bundle's weights.

        Args:
            shape: of what the model gets.
            config: of the model.
            spec: of its codes.
            M: sub-quantizers.
        """
        latent_dim = latent_dim_of(config, spec.structure, M)
        found = HandedIn()
        record = self.encoder_record
        if record is not None and (record["trainable"] or config.fine_tuned):
            seen = shape if record["trainable"] else tuple(record["input_shape"])
            backbone = self._whole(record, seen)
            if config.fine_tuned:
                backbone = in_two(backbone, config.fine_tuned, seen).learning
            found["encoder"] = copy.deepcopy(backbone)
        if self.decoder_record is not None:
            try:
                made = resolved_decoder(self.decoder, shape, latent_dim, width=config.width)
            except TypeError as error:
                raise ValueError(f"{error}; pass {_described(self.decoder_record)}") from error
            found["decoder"] = copy.deepcopy(made)
        return found

    def _whole(self, record: Record, shape: tuple[int, ...]) -> Backbone:
        """The encoder that was handed in, seeing what it saw when the bundle was written."""
        return _as_recorded(_resolved(self.encoder, record, shape), record)

    def check_probe(self, model: PQVAE) -> None:
        """Refuses an encoder that computes something else than the one that was written.

        Raises:
            ValueError: such as one with the same weights and another activation.
        """
        record = self.encoder_record
        if record is None or model.backbone is None:
            return
        probe = record["probe"] if record["trainable"] else record["learned_probe"]
        _check_probe(model.backbone, model.input_shape, probe, record)

    def front(self, model: PQVAE) -> Front | None:
        """The frozen network before the model, where there is one.

        Raises:
            ValueError: another network than the one that the codes were learned behind.
        """
        record = self.encoder_record
        if record is None or record["trainable"]:
            return None
        shape = tuple(record["input_shape"])
        found = self._whole(record, shape)
        if n_learning := model.config.fine_tuned:
            found = in_two(found, n_learning, shape).frozen or found
        front = Front(found, shape)
        fingerprint = front.fingerprint()
        if fingerprint != record["sha256"]:
            raise ValueError(
                f"the encoder {found.reference} is not the one that the codes were learned behind: "
                f"its weights have the sha256 {fingerprint[:12]}..., expected "
                f"{record['sha256'][:12]}...; pass {_described(record)} with its weights as they "
                "were, which a bundle does not hold of a frozen network, as read_index(path, "
                "encoder=...), or in a shell --encoder"
            )
        _check_probe(front.backbone, shape, record["probe"], record)
        front.learned_behind = fingerprint
        return front

    def explained(self, message: str) -> str:
        """A message about weights that do not fit, with what was handed in."""
        records = {"encoder": self.encoder_record, "decoder": self.decoder_record}
        asked = [f"{n}={_described(record)}" for n, record in records.items() if record is not None]
        if not asked:
            return f"{message}: other shapes"
        return f"{message} with the network that was handed in: expected {' and '.join(asked)}"


def _resolved(encoder: Any, record: Record, shape: tuple[int, ...]) -> Backbone:
    """The network, made with what it was made with before; ValueError for no network."""
    made_with = record["made_with"]
    try:
        return resolved_encoder(
            encoder, shape, made_with.get("latent_dim", 1), width=made_with.get("width", 1)
        )
    except TypeError as error:
        raise ValueError(f"{error}; pass {_described(record)}") from error


def _check_probe(
    backbone: Backbone, shape: tuple[int, ...], probe: list[float], record: Record
) -> None:
    if not alike(probe, backbone.probe(shape)):
        raise ValueError(
            "the encoder has the weights that it had, but gives other features than the one that "
            f"the codes were learned with: pass {_described(record)}"
        )


def _as_recorded(found: Backbone, record: Record) -> Backbone:
    backbone = Backbone(
        found.module,
        trainable=record["trainable"],
        lr=found.lr,
        size=None if record["size"] is None else tuple(record["size"]),
        crop=record.get("crop", False),
        mean=record["mean"],
        deviation=record["deviation"],
        reference=record["reference"],
        arguments=record["arguments"],
    )
    backbone.made_with = record["made_with"]
    return backbone


def _described(record: Record) -> str:
    """Where a network comes from, in words."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in record["arguments"].items())
    made = f" made with {arguments}" if arguments else ""
    return f"{record['reference']!r}{made}"


def _record(config: dict[str, Any], name: str) -> Record | None:
    """What a bundle says of a network, looked at."""
    record = config.get(name)
    if record is None:
        return None
    kinds: dict[str, type] = {"reference": str, "arguments": dict}
    if name == "encoder":
        kinds |= {
            "trainable": bool,
            "mean": list,
            "deviation": list,
            "probe": list,
            "made_with": dict,
        }
        if isinstance(record, dict) and record.get("trainable") is False:
            kinds |= {"input_shape": list, "sha256": str}
    if not isinstance(record, dict) or not all(
        isinstance(record.get(key), kind) for key, kind in kinds.items()
    ):
        raise ValueError(f"damaged bundle: expected a record of its {name}, got {record!r}")
    if not isinstance(record.get("learned_probe", []), list) or not isinstance(
        record.get("crop", False), bool
    ):
        raise ValueError(f"damaged bundle: expected a record of its {name}, got {record!r}")
    size = record.get("size")
    if size is not None and not (isinstance(size, list) and all(type(v) is int for v in size)):
        raise ValueError(f"damaged bundle: expected the size of its {name}'s images, got {size!r}")
    return record
