"""Rules of norms, reductions, softmax and pooling: what is mixed along an axis."""

from __future__ import annotations

from math import prod

from torch import Tensor

from ..labels import Derived, Reference, drop_repeats, varying_dims
from .call import Call, rule, settings, tensors_in
from .deriving import reduce_weights
from .meeting import attach, meet


def norm_parameters(call: Call, labels: Tensor, named: dict[str, Tensor | None]) -> None:
    """Affine parameters and statistics of a norm are features of the units they meet."""
    leader = ""
    for role, value in named.items():
        if value is None:
            continue
        tracked = call.statistic(value) or call.tracked(value)
        if isinstance(tracked, Reference):
            call.ledger.use(tracked.name, role, leader)
            leader = leader or tracked.name
            attach(call, tracked, labels, role=role)
        else:
            meet(call, labels, value)


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update batch_norm"
)
def batch_norm(call: Call) -> None:
    """Batch norm: scale, shift and running statistics belong to their channel."""
    labels = call.labels(call.args[0])
    others = set(range(labels.dim())) - {1}
    row = call.ledger.tie_along(labels, others)
    channel = row.flatten()
    scale, shift, mean, variance = call.args[1:5]
    norm_parameters(
        call, channel, {"scale": scale, "shift": shift, "mean": mean, "variance": variance}
    )
    call.record([channel], [channel], **settings(call, "eps"))
    call.give_none()
    call.give(row.expand(labels.shape), tensors_in(call.out)[0])


def within(call: Call, labels: Tensor, dims: set[int], name: str) -> Tensor:
    """Units summed or normalised together go together; what they have in common, dims of size 1.

    Where all are in one sum nothing is said of them.
    """
    (narrow,) = drop_repeats(labels)
    kept = [d for d in range(labels.dim()) if d not in dims]
    rows = narrow.permute(*kept, *sorted(dims))
    lead = rows.shape[: len(kept)]
    found = call.ledger.hub(rows.reshape(prod(lead), -1), name).view(lead)
    for dim in sorted(dims):
        found = found.unsqueeze(dim)
    return found.expand([1 if d in dims else s for d, s in enumerate(labels.shape)])


@rule("native_layer_norm _fused_rms_norm rms_norm")
def layer_norm(call: Call) -> None:
    """Layer and RMS norm: scale and shift belong to their units."""
    labels = call.labels(call.args[0])
    count = len(call.args[1])
    within(call, labels, set(range(labels.dim() - count, labels.dim())), "parts")
    scale = call.arg(2, "weight")
    shift = call.args[3] if call.name == "native_layer_norm" else None
    norm_parameters(call, labels, {"scale": scale, "shift": shift})
    call.record([labels], [labels], **settings(call, "eps"))
    call.give_none()
    call.give(labels, tensors_in(call.out)[0])


@rule("native_group_norm")
def group_norm(call: Call) -> None:
    """Group norm: channels move within their group, and groups as a whole."""
    x, scale, shift, _, num_channels, _, groups = call.args[:7]
    labels = call.labels(x)
    row = call.ledger.tie_along(labels, set(range(labels.dim())) - {1})
    channel = row.flatten()
    if groups < num_channels:  # with a group a channel, any two may be exchanged
        call.ledger.hub(channel.view(groups, -1), "groups")
    norm_parameters(call, channel, {"scale": scale, "shift": shift})
    call.record([channel], [channel], groups=groups, **settings(call, "eps"))
    call.give_none()
    call.give(row.expand(labels.shape), tensors_in(call.out)[0])


@rule("_softmax _log_softmax softmax log_softmax _safe_softmax")
def softmax(call: Call) -> None:
    """Softmax treats all members of its axis alike."""
    labels = call.labels(call.args[0])
    dim = call.arg(1, "dim") % max(labels.dim(), 1)
    if dim in varying_dims(labels):
        within(call, labels, {dim}, "parts")
    call.record([labels], [labels])
    call.give(labels)


@rule(
    "mean sum amax amin var std var_mean std_mean logsumexp linalg_vector_norm norm prod any "
    "all nansum"
)
def reduction(call: Call) -> None:
    """A reduction keeps a label that is constant over what is reduced, else drops it."""
    value = call.args[0]
    if isinstance(call.tracked(value), Reference | Derived):
        return reduce_weights(call, *_reduced_dims(call, value.dim()))
    labels = call.labels(value)
    dims, keep = _reduced_dims(call, labels.dim())
    if varying_dims(labels) & dims:
        found = within(call, labels, dims, "parts")
        if not keep:
            found = found.reshape([s for d, s in enumerate(labels.shape) if d not in dims])
        call.record([labels], [found], dims=tuple(sorted(dims)))
        call.give_none()
        for out in tensors_in(call.out):
            call.give(found, out)
        return
    for dim in sorted(dims, reverse=True):
        labels = labels.narrow(dim, 0, 1) if keep else labels.select(dim, 0)
    call.record([labels], [labels], dims=tuple(sorted(dims)))
    for out in tensors_in(call.out):
        call.give(labels, out, keeps_zero=call.name in ("mean", "sum", "amax", "amin"))


def _reduced_dims(call: Call, rank: int) -> tuple[set[int], bool]:
    given = settings(call)
    dim = given.get("dim")
    if dim is None or dim == []:
        dim = list(range(rank))
    dims = {d % max(rank, 1) for d in (dim if isinstance(dim, list | tuple) else [dim])}
    return dims, bool(given.get("keepdim", False))


@rule(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "mkldnn_max_pool2d mkldnn_max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_max_pool2d adaptive_max_pool3d upsample_linear1d upsample_bilinear2d "
    "upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa"
)
def pooling(call: Call) -> None:
    """Pooling and smooth resizing mix places of one channel: labels are tied over space."""
    labels = call.labels(call.args[0])
    out = tensors_in(call.out)[0]
    space = int("1d" in call.name) + 2 * int("2d" in call.name) + 3 * int("3d" in call.name)
    row = call.ledger.tie_along(labels, set(range(labels.dim() - space, labels.dim())))
    call.record([row], [row], **settings(call))
    for place in tensors_in(call.out)[1:]:  # where the largest stood, for each unit
        call.give(row, place)
    call.give(row, out, keeps_zero=True)
