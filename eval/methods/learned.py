"""Learned codes as rows of an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from faiss_pqvae import Contrastive, index_factory
from faiss_pqvae.registry import methods, objectives

from .code_shape import is_residual, shape_of_learned_code
from .learned_code import LearnedCode, foreign_parts
from .method import Method, Request
from .settings import CodeSettings
from .visible_code import code_hash


@methods.register("learned")
def rows(request: Request) -> Iterator[Method]:
    """What is asked for, with each lambda: all items scanned, and behind inverted lists if asked.

    Of residual codes every prefix is a code: one training has all lengths. Codes of vectors have
    rows at the same bytes whose candidates the decoder ranks again.
    """
    settings = request.learned
    if settings is None:
        return
    if settings.tuned is not None:
        shape = tuple(settings.tuned.data.database.shape[1:])
        request = dataclasses.replace(request, shape=shape)
        yield from _of_code(_code(request, settings), request)
        return
    own = getattr(settings.objective, "lambda_", None)
    if settings.product is not None:
        yield from _sums_and_products(request, settings)
    else:
        for lambda_ in dict.fromkeys((own, *settings.also_lambdas)):
            code = _code(request, settings, None if lambda_ == own else lambda_)
            yield from _of_code(code, request)
    if len(request.shape) == 1 and _has_decoder(settings):
        yield from _reranked(request, settings)


def _has_decoder(settings: CodeSettings) -> bool:
    """Whether a decoder ranks candidates: not one that was fitted behind a contrast.

    Such a code was made to look beyond what is near by vectors, which is all that such a decoder
    knows of: the second look finds less and takes many times as long.
    """
    learned = settings.objective if settings.reranked is None else settings.reranked
    behind = isinstance(learned, Contrastive) and not learned.reconstruction_weight
    return learned.code == "PQVAE" and not behind


def _sums_and_products(request: Request, settings: CodeSettings) -> Iterator[Method]:
    """What each description makes of vectors, and product codes beside it where that is sums."""
    of_sums, of_product = _code(request, settings), _code(request, settings, product=True)
    for nlist in dict.fromkeys((None, request.nlist)):
        front = "" if nlist is None else f"IVF{nlist},"
        makes_sums = _usual(f"{front}{of_sums.code}", request, settings) == settings.objective
        if makes_sums:
            yield _row(of_sums, request, nlist)
        product = _row(of_product, request, nlist)
        yield product if makes_sums else dataclasses.replace(product, name=front + of_sums.name)


def _usual(factory: str, request: Request, settings: CodeSettings) -> Any:
    """The objective of what a description makes of a request's items if none is named."""
    metric = None if request.metric == "l2" else request.metric
    index = index_factory(request.shape, factory, model=settings.model, metric_type=metric)
    made = index.model.config.objective
    known = (settings.objective, settings.product)
    return next(one for one in known if objectives.name_of(type(one)) == made)


def _of_code(code: LearnedCode, request: Request) -> Iterator[Method]:
    for nlist in dict.fromkeys((None, request.nlist)):
        yield _row(code, request, nlist)


def _row(code: LearnedCode, request: Request, nlist: int | None) -> Method:
    if nlist is None:
        return code.method(request.bits, request.shape)
    return code.inverted_file(nlist, request.shape)


def _reranked(request: Request, settings: CodeSettings) -> Iterator[Method]:
    """The rows with the decoder: of the same training, unless another objective is asked for."""
    plain = _code(request, settings)
    objective = plain.objective if settings.reranked is None else settings.reranked
    shares = objective == plain.objective
    folder = plain.folder if shares else plain.folder.with_name(f"{plain.folder.name}-rdecoder")
    M, nbits = shape_of_learned_code(request.bits, request.shape, objective)
    code = LearnedCode(
        M,
        nbits,
        settings.model,
        plain.training,
        objective=objective,
        folder=folder,
        pretrained=settings.pretrained,
        queries=settings.queries if "queries" in objective.learns_from else None,
        views=settings.views if "views" in objective.learns_from else None,
        before=settings.before,
        shown=plain.shown,
        reranked=True,
        metric=request.metric,
        coded=plain if shares else None,
    )
    for row in _of_code(code, request):
        yield dataclasses.replace(row, finish=plain.finish) if shares else row


def _code(
    request: Request,
    settings: CodeSettings,
    lambda_: float | None = None,
    *,
    product: bool = False,
) -> LearnedCode:
    """The code of a request, one for all its rows.

    Args:
        request: what is asked for.
        settings: how it is trained.
        lambda_: in place of the objective's own.
        product: whether it is the product code that is compared with sums.
    """
    objective = settings.product if product else settings.objective
    lengths: tuple[int, ...] = (request.bits,)
    if is_residual(objective):
        lengths = request.lengths or lengths
    key = "learned", lengths, lambda_, product, request.seed
    if key in request.shared:
        found: LearnedCode = request.shared[key]
        return found
    # Each length is checked, also where one training has all.
    M, nbits = max(shape_of_learned_code(n, request.shape, objective) for n in lengths)
    suffix, name = "", objective.title
    factory = f"{objective.code}{M}x{nbits}"
    if product and _usual(factory, request, settings) != objective:  # there are sums beside it
        suffix, name = "-product", f"{name}, product"
    if lambda_ is not None:
        objective = dataclasses.replace(objective, lambda_=lambda_)
        suffix, name = f"-lambda{lambda_:g}", f"{name}, lambda {lambda_:g}"
    if request.seed:
        suffix += f"-seed{request.seed}"
    # A training goes on from its folder: with other code of somebody's, in another one.
    foreign = foreign_parts(settings.model, objective)
    if foreign:
        suffix += f"-code{code_hash(*foreign)[:8]}"
    request.shared[key] = LearnedCode(
        M,
        nbits,
        settings.model,
        dataclasses.replace(settings.training, seed=request.seed),
        objective=objective,
        folder=settings.folder / f"{objective.code.lower()}-{max(lengths)}{suffix}",
        name=name,
        pretrained=settings.pretrained,
        queries=settings.queries,
        views=settings.views if "views" in objective.learns_from else None,
        tuned=settings.tuned,
        before=settings.before,
        metric=request.metric,
        lengths=lengths,
        shown=lambda_ is None and request.seed == request.seeds[0],
    )
    return _code(request, settings, lambda_, product=product)
