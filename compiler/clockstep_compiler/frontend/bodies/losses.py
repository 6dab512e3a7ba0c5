"""Losses of classification: what a class is picked by is a mask over all classes."""

from __future__ import annotations

import numpy as np

from clockstep_compiler.frontend.body import Body, composes

__all__: list[str] = []

_NO_CLASS = -(2**31)
"""The number of a class that no target has."""


@composes("NegativeLogLikelihoodLoss")
def _nll(body: Body) -> None:
    scores, target, weight = body.inputs(3)
    body.give(0, _loss(body, scores, target, weight))


@composes("SoftmaxCrossEntropyLoss")
def _cross_entropy(body: Body) -> None:
    scores, target, weight = body.inputs(3)
    logarithms = body.op("LogSoftmax", scores, axis=1)
    body.give(0, _loss(body, logarithms, target, weight))
    body.give(1, logarithms)


def _loss(body: Body, scores: str, target: str, weight: str) -> str:
    """Less the scores [n, c, ...] of targets [n, ...], weighted by class and reduced."""
    shape, ignored = body.shape(scores), body.attribute("ignore_index")
    reduction = body.attribute("reduction", "mean")
    classes = np.arange(shape[1])
    if ignored is not None:
        classes = np.where(classes == ignored, _NO_CLASS, classes)
    along = [1, shape[1], *[1] * (len(shape) - 2)]
    every = body.constant(classes.reshape(along), np.int32)
    target = body.op("Unsqueeze", body.cast(target, "int32"), body.constant([1]))
    hot, zero = body.op("Equal", target, every), body.like(0.0, scores)
    loss = _of_class(body, hot, scores, zero)
    loss = body.op("Neg", loss)
    weights = ""
    if weight:
        weights = _of_class(body, hot, body.reshape(weight, along), zero)
        loss = body.op("Mul", loss, weights)
    elif ignored is not None and reduction == "mean":
        weights = _of_class(body, hot, body.like(1.0, scores), zero)
    if reduction == "none":
        return loss
    if reduction == "mean" and not weights:
        return body.op("ReduceMean", loss, keepdims=0)
    total = body.op("ReduceSum", loss, keepdims=0)
    if reduction == "sum":
        return total
    return body.op("Div", total, body.op("ReduceSum", weights, keepdims=0))


def _of_class(body: Body, hot: str, values: str, zero: str) -> str:
    """The value of the class that is hot; zero if none is."""
    chosen = body.op("Where", hot, values, zero)
    return body.op("ReduceSum", chosen, body.constant([1]), keepdims=0)
