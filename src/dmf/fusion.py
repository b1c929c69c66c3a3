"""Dynamic Memory Fusion: weights for several losses from the history of their values.

The total loss is sum_i w_i L_i + gamma(t) L_a (eq. 1), with an auxiliary loss that fades as
gamma(t) = gamma0 exp(-decay t) (eq. 2). Nothing here knows what the losses measure.

    fusion = DynamicMemoryFusion(["data", "boundary"], weighting="mad")
    fusion({"data": data_loss, "boundary": boundary_loss}).backward()

One call in training mode is one step: the losses enter the history, the last `window` values of
each; the weights follow from it, and are uniform until it holds `warmup` values; gamma takes its
value for the current t, which then advances, once per `step_batches` steps. In `eval()` mode the
last weights and the last gamma are applied, and nothing changes.

All state is in buffers, written in place. Nothing waits for the device, is copied to it or branches
on its values, so a step can be captured in a CUDA graph or compiled with `fullgraph=True`.

A step in which any base loss is NaN or infinite is not recorded, for it would spoil every statistic
until it left the window. Its total is not finite either, so that divergence is noticed, with one
exception: a term without gradient in a total that has one cannot harm the model, and counts as 0.
"""

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

Weighting = Literal["variance", "mad", "bayesian", "fixed", "random", "softadapt", "cov"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)

Losses = Tensor | Sequence[Tensor | float] | Mapping[str, Tensor | float]
T = TypeVar("T", int, Tensor)

EVENTS = ("non_finite_loss", "non_finite_auxiliary", "constant_history", "uniform_fallback")

# Five-point forward difference, the slope at the oldest value, as in the authors' code.
_SOFTADAPT_SLOPE = (-25 / 12, 4.0, -3.0, 4 / 3, -1 / 4)
_SOFTADAPT_BETA = 0.1
_MAD_OFFSET = 1e-7


class DynamicMemoryFusion(nn.Module):
    """Weighs K losses by their history and adds them up.

    losses: the names of the base losses in their order, or how many there are.
    weighting: how the weights, in [0, 1] and with sum 1, follow from the history.
        "variance": proportional to the variance of the normalised history (eq. 3-4).
        "mad": inversely proportional to its median absolute deviation + 1e-7 (eq. 5-6).
        "bayesian": the same as likelihood, times a prior (eq. 7-8), in log space.
        "fixed": `fixed_weights`.
        "random": random loss weighting (Lin et al. 2022), softmax of K standard normal numbers.
        "softadapt": SoftAdapt, original variant (Heydari et al. 2019), softmax of 0.1 times the
            slope of the raw losses, by finite differences over the last five; uniform before.
        "cov": coefficient of variation (Groenendijk et al. 2021) of the ratio of each loss to its
            mean so far, over the whole history, without the current step; uniform for two steps.
    warmup, window: how many values the first weights need, and how many are kept, for variance, mad
        and bayesian. These alone normalise the history: symmetric logarithm (eq. 10), then min-max
        scaling of each row (eq. 9).
    gamma0, decay, step_batches: the schedule of the auxiliary loss (eq. 2).
    median: "true", or "released" for that of the notebook released with the paper, which averages
        two neighbours for an odd number of values and takes the upper middle for an even one.
    detach: whether weights are constants; False lets gradients flow through them to the current
        losses, as in the notebook.
    prior_update: "every_step" makes each posterior the next prior; "fixed" keeps `priors`.
    priors, fixed_weights: K numbers >= 0, rescaled to sum to 1; uniform by default.
    smoothing: s for a moving average of the weights, s * previous + (1 - s) * new; None for none.
    seed: of the random weights, which depend on the seed and the step alone.

    Raises ValueError for options that do not fit together.
    """

    coefficients: Tensor
    step: Tensor
    event_counts: Tensor
    history: Tensor
    recorded: Tensor
    log_prior: Tensor
    loss_mean: Tensor
    ratio_mean: Tensor
    ratio_deviations: Tensor
    random_key: Tensor

    def __init__(
        self,
        losses: int | Sequence[str] = ("cross_entropy", "iou", "dice"),
        weighting: Weighting = "variance",
        *,
        warmup: int = 50,
        window: int = 150,
        gamma0: float = 5.0,
        decay: float = 0.05,
        step_batches: int = 100,
        median: Literal["true", "released"] = "true",
        detach: bool = True,
        prior_update: Literal["every_step", "fixed"] = "every_step",
        priors: Sequence[float] | None = None,
        fixed_weights: Sequence[float] | None = None,
        smoothing: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(losses, str | Mapping | set | frozenset):
            raise ValueError(f"losses must be a list of names in order or a number, got {losses!r}")
        names = [f"loss_{i}" for i in range(losses)] if isinstance(losses, int) else losses
        self.names = tuple(names)
        count = len(self.names)
        if count == 0 or len(set(self.names)) < count or set(map(type, self.names)) != {str}:
            raise ValueError(f"losses must be one or more different strings, got {losses!r}")
        for what, value, choices in (
            ("weighting", weighting, WEIGHTINGS),
            ("median", median, ("true", "released")),
            ("prior_update", prior_update, ("every_step", "fixed")),
        ):
            if value not in choices:
                raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")
        if not 1 <= warmup <= window:
            raise ValueError(f"1 <= warmup <= window is needed, got {warmup} and {window}")
        if step_batches < 1:
            raise ValueError(f"step_batches must be at least 1, got {step_batches}")
        if smoothing is not None and not 0 < smoothing < 1:
            raise ValueError(f"smoothing must be between 0 and 1, or None, got {smoothing}")
        if priors is not None and weighting != "bayesian":
            raise ValueError(f"priors belong to weighting 'bayesian', not {weighting!r}")
        if fixed_weights is not None and weighting != "fixed":
            raise ValueError(f"fixed_weights belong to weighting 'fixed', not {weighting!r}")

        self.weighting = weighting
        self.warmup = {"softadapt": 5, "cov": 3, "random": 1}.get(weighting, warmup)
        self.gamma0, self.decay, self.step_batches = gamma0, decay, step_batches
        self.median, self.detach = median, detach
        self.prior_update, self.smoothing = prior_update, smoothing

        weights = _distribution("fixed_weights", fixed_weights, count)
        self.register_buffer("coefficients", torch.cat((weights, torch.tensor([gamma0]))))
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("recorded", torch.tensor(0))
        self.register_buffer("event_counts", torch.zeros(len(EVENTS), dtype=torch.int64))
        if weighting in ("variance", "mad", "bayesian", "softadapt"):
            places = len(_SOFTADAPT_SLOPE) if weighting == "softadapt" else window
            self.register_buffer("history", torch.zeros(count, places))
        if weighting == "bayesian":
            self.register_buffer("log_prior", _distribution("priors", priors, count).log())
        if weighting == "cov":
            for name in ("loss_mean", "ratio_mean", "ratio_deviations"):
                self.register_buffer(name, torch.zeros(count))
        if weighting == "random":
            # Above the seed's 32 bits, which are all that `_mix` takes: the number of the loss.
            key = _mix(_mix(seed >> 32) ^ seed)
            self.register_buffer("random_key", (torch.arange(count) << 32) + key)

    @property
    def weights(self) -> Tensor:
        """The weights of the base losses in the last training step, (K,)."""
        return self.coefficients[:-1]

    @property
    def gamma(self) -> Tensor:
        """The weight of the auxiliary loss in the last training step, 0-dim; 0 if it had none."""
        return self.coefficients[-1]

    @property
    def events(self) -> dict[str, Tensor]:
        """The number of steps with each of `EVENTS`, as 0-dim tensors on the device.

        non_finite_loss, non_finite_auxiliary: a base loss, or the auxiliary, was NaN or infinite.
        constant_history: past the warm-up, a loss had the same value all over the window.
        uniform_fallback: all of them had, and the variances gave no weights.
        """
        return dict(zip(EVENTS, self.event_counts.unbind(), strict=True))

    def forward(self, losses: Losses, auxiliary: Tensor | float | None = None) -> Tensor:
        """The total loss, a scalar.

        losses: K scalars by name, or in the order of `names`, or as a tensor of shape (K,).
        auxiliary: a scalar, or None. A scalar is a tensor with one element, or a constant number.

        Raises TypeError for losses of another type, and ValueError for losses that do not match
        `names` in number, name, shape or device, and where the module is in half precision.
        """
        values, terms = self._values_and_terms(losses)
        if auxiliary is not None:
            auxiliary = self._checked("the auxiliary loss", auxiliary)
        if self.training:
            coefficients = self._advance(values.detach() if self.detach else values, auxiliary)
        else:
            coefficients = self.coefficients.clone()
        if auxiliary is None:
            return (coefficients[:-1] * terms).sum()
        trains = terms.requires_grad or auxiliary.requires_grad
        auxiliary = _zero_if_harmless(auxiliary, trains).reshape(1)
        return (coefficients * torch.cat((terms, auxiliary))).sum()

    def get_extra_state(self) -> Tensor:
        """Names and weighting, for `load_state_dict`: as bytes, since safetensors keeps no text."""
        identity = json.dumps({"names": self.names, "weighting": self.weighting})
        return torch.tensor(list(identity.encode()), dtype=torch.uint8, device="cpu")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Bring the losses of a state into the order of `names`, before anything is written.

        Raises ValueError for a state of other names or of another weighting. One without names, of
        an earlier version, is taken to be in this order.
        """
        identity = state_dict.pop(prefix + "_extra_state", None)
        if identity is not None:
            saved = json.loads(bytes(identity.tolist()))
            names, weighting = saved["names"], saved["weighting"]
            if sorted(names) != sorted(self.names) or weighting != self.weighting:
                raise ValueError(
                    f"the state is of weighting {weighting!r} and losses {names}, but this fusion "
                    f"has {self.weighting!r} and {list(self.names)}: build it as the saved one"
                )
            order = [names.index(name) for name in self.names]
            for name in set(self._buffers) - {"step", "recorded", "event_counts"}:
                if (value := state_dict.get(prefix + name)) is not None:
                    # `coefficients` ends with gamma, which keeps its place.
                    state_dict[prefix + name] = value[[*order, *range(len(order), len(value))]]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{', '.join(self.names)}; weighting={self.weighting}"

    def _values_and_terms(self, losses: Losses) -> tuple[Tensor, Tensor]:
        """The losses as they are, and as they enter the total; both (K,)."""
        count = len(self.names)
        if isinstance(losses, Tensor):
            values = self._checked("the losses", losses, (count,))
            return values, values
        if isinstance(losses, Mapping):
            if set(losses) != set(self.names):
                raise ValueError(f"expected losses named {self.names}, got {tuple(losses)}")
            losses = [losses[name] for name in self.names]
        if not isinstance(losses, Sequence) or isinstance(losses, str):
            got = type(losses).__name__
            raise TypeError(f"losses must be a dictionary, list or tensor, got {got}: convert it")
        if len(losses) != count:
            raise ValueError(f"expected {count} losses, {self.names}, got {len(losses)}")
        named = zip(self.names, losses, strict=True)
        scalars = [self._checked(f"the loss {name!r}", loss) for name, loss in named]
        values = torch.stack(scalars)
        trains = values.requires_grad
        return values, torch.stack([_zero_if_harmless(scalar, trains) for scalar in scalars])

    def _checked(self, what: str, loss: object, shape: tuple[int, ...] = ()) -> Tensor:
        """The loss in the given shape and in the type of the buffers."""
        own = self.coefficients
        if own.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"the fusion is in {own.dtype}, too coarse: call fusion.float()")
        if isinstance(loss, Real):
            return own.new_full(shape, float(loss))  # filled in place: nothing is copied there
        if not isinstance(loss, Tensor):
            got = type(loss).__name__
            raise TypeError(f"{what} must be a number or tensor, such as loss.mean(), got {got}")
        if loss.numel() != math.prod(shape):
            found = tuple(loss.shape)
            raise ValueError(f"{what} must be of shape {shape}, got {found}: a loss is one number")
        if loss.device != own.device:
            move = f'fusion.to("{loss.device}")'
            raise ValueError(f"{what} and the fusion are on different devices: call {move}")
        return loss.to(own.dtype).reshape(shape)

    def _advance(self, losses: Tensor, auxiliary: Tensor | None) -> Tensor:
        """One training step of the state; the weights and gamma that it uses, (K + 1,)."""
        finite = _finite(losses)
        self.recorded.add_(finite)
        weights = self.weights
        degenerate: list[Tensor] = []
        if self.weighting != "fixed":
            recorded = self.recorded if self.detach else _saved_for_backward(self.recorded)
            active = finite & (recorded >= self.warmup)
            scores, degenerate = self._score(losses, finite, recorded, active)
            proposal = scores.softmax(0)
            if self.smoothing is not None:
                proposal = self.smoothing * weights + (1 - self.smoothing) * proposal
            weights = torch.where(active, proposal, weights)

        if auxiliary is None:
            gamma, bad_auxiliary = weights.new_zeros(()), torch.zeros_like(finite)
        else:
            t = torch.div(self.step, self.step_batches, rounding_mode="floor")
            gamma = self.gamma0 * torch.exp(-self.decay * t.to(weights.dtype))
            bad_auxiliary = ~_finite(auxiliary)
        # The concatenation also keeps both for the backward pass, see `_saved_for_backward`.
        coefficients = torch.cat((weights, gamma.reshape(1)))
        self.coefficients.copy_(coefficients.detach())
        self.step.add_(1)
        events = torch.stack((~finite, bad_auxiliary, *degenerate))
        self.event_counts[: len(events)].add_(events)
        return coefficients

    def _score(
        self, losses: Tensor, finite: Tensor, recorded: Tensor, active: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The logarithm of the weights up to a constant, and events; records the losses.

        In logarithms no posterior underflows, and the softmax normalises whatever comes out. The
        events are the third and fourth of `EVENTS`, as far as the weighting has them.
        """
        if self.weighting == "random":
            return self._normal_numbers(), []
        if self.weighting == "cov":
            return self._coefficient_of_variation(losses, finite, recorded), []
        if self.weighting == "softadapt":
            history = self._record(losses, finite, recorded)
            slope = torch.stack([history.new_full((), factor) for factor in _SOFTADAPT_SLOPE])
            return _SOFTADAPT_BETA * (history * slope).sum(1).nan_to_num(), []

        history = self._record(symmetric_log(losses), finite, recorded)
        scaled, flat = min_max(history)
        window = history.shape[1]
        filled = torch.arange(window, 0, -1, device=history.device) <= recorded
        count = recorded.clamp(1, window)
        constant = active & flat.any()
        if self.weighting == "variance":
            variance = population_variance(scaled, filled, count)
            # The offset is far below any variance but 0: if all are 0, the weights are uniform.
            return (variance + 1e-30).log(), [constant, active & flat.all()]
        deviation = median_absolute_deviation(scaled, filled, count, self.median)
        scores = -(deviation + _MAD_OFFSET).log()
        if self.weighting == "bayesian":
            prior = self.log_prior if self.detach else _saved_for_backward(self.log_prior)
            scores = (scores + prior).log_softmax(0)
            if self.prior_update == "every_step":
                self.log_prior.copy_(torch.where(active, scores.detach(), self.log_prior))
        return scores, [constant]

    def _record(self, values: Tensor, finite: Tensor, recorded: Tensor) -> Tensor:
        """The history with the values appended, oldest first; unchanged if the step is not finite.

        The first values fill their whole row, so that the extremes of a row need no mask.
        """
        column = values[:, None]
        longer = torch.cat((self.history, column), dim=1)
        shifted = torch.where(recorded <= 1, column, longer[:, 1:])
        history = torch.where(finite, shifted, longer[:, :-1])
        self.history.copy_(history.detach())
        return history

    def _coefficient_of_variation(self, losses: Tensor, finite: Tensor, recorded: Tensor) -> Tensor:
        """The logarithm of the coefficient so far; the current losses enter the next step's."""
        count = recorded.clamp(min=1).to(losses.dtype)
        variance = self.ratio_deviations / (count - 1).clamp(min=1) + 1e-8
        score = variance.log() / 2 - _nonzero(self.ratio_mean).abs().log()

        losses = losses.detach()
        mean = torch.where(count == 1, losses, self.loss_mean)
        ratio = torch.where(mean == 0, 1.0, losses / _nonzero(mean))
        ratio = ratio.clamp(-1e12, 1e12)  # so that no square overflows
        ratio_mean = self.ratio_mean + (ratio - self.ratio_mean) / count
        deviations = self.ratio_deviations + (ratio - self.ratio_mean) * (ratio - ratio_mean)
        for state, new in (
            (self.ratio_deviations, deviations),
            (self.ratio_mean, ratio_mean),
            (self.loss_mean, self.loss_mean * (1 - 1 / count) + losses / count),
        ):
            state.copy_(torch.where(finite, new, state))
        return score

    def _normal_numbers(self) -> Tensor:
        """K standard normal numbers from the seed and the step, the same on every device."""
        counter = self.step * len(self.names) + (self.random_key >> 32)
        bits = _mix(_mix(counter) ^ self.random_key)
        # 23 bits and a half step: exact in float32, never 0 or 1.
        uniform = ((bits >> 9).to(self.coefficients.dtype) + 0.5) / 2**23
        return 2**0.5 * torch.erfinv(2 * uniform - 1)


def symmetric_log(values: Tensor) -> Tensor:
    """log(1 + x) for x >= 0, -log(1 - x) below (eq. 10)."""
    return values.sign() * values.abs().log1p()


def min_max(history: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of (K, window) scaled to [0, 1] (eq. 9), and which rows are constant, (K,).

    A constant row, for which eq. 9 is 0/0, becomes 0.
    """
    low, high = history.aminmax(dim=1, keepdim=True)
    spread = high - low
    flat = spread == 0
    return (history - low) / (spread + flat), flat.squeeze(1)


def population_variance(values: Tensor, filled: Tensor, count: Tensor) -> Tensor:
    """Variance of each row of (K, window) over its `count` filled places (eq. 3)."""
    share = filled / count
    mean = (values * share).sum(1, keepdim=True)
    return ((values - mean).square() * share).sum(1)


def median_absolute_deviation(values: Tensor, filled: Tensor, count: Tensor, kind: str) -> Tensor:
    """Median distance of each row of (K, window) from its median (eq. 5), over the filled places.

    kind: "true", or "released" for the median of the released notebook.
    """
    upper = count // 2
    lower = upper - (count + (kind == "true")) % 2
    middle = torch.stack((lower.clamp(min=0), upper))

    def median(row: Tensor) -> Tensor:
        ordered = torch.where(filled, row, torch.inf).sort(dim=1).values
        return ordered.index_select(1, middle).mean(1, keepdim=True)

    return median((values - median(values)).abs()).squeeze(1)


def _finite(values: Tensor) -> Tensor:
    """Whether all are finite: x - x is NaN otherwise (`isfinite` takes twice as many kernels)."""
    values = values.detach()
    return (values - values == 0).all()


def _saved_for_backward(state: Tensor) -> Tensor:
    """A copy that torch.compile saves for the backward pass.

    Otherwise it may recompute there what depends on a buffer, from the buffer's next value, and the
    gradients are silently wrong (pytorch/pytorch#197039). A concatenation is never recomputed.
    """
    flat = state.reshape(-1)
    return torch.cat((flat, flat))[: flat.numel()].reshape(state.shape)


def _nonzero(values: Tensor) -> Tensor:
    return values + (values == 0)


def _zero_if_harmless(term: Tensor, trains: bool) -> Tensor:
    """The term, or 0 for a non-finite value without gradient in a total that has one."""
    harmless = trains and not term.requires_grad
    return term.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) if harmless else term


def _distribution(what: str, values: Sequence[float] | None, count: int) -> Tensor:
    """The values, uniform by default, rescaled to sum to 1; (count,)."""
    numbers = [1.0] * count if values is None else [float(value) for value in values]
    total = sum(numbers)
    if len(numbers) != count or any(n < 0 for n in numbers) or not 0 < total < math.inf:
        raise ValueError(f"{what} must be {count} finite numbers >= 0, not all 0, got {values!r}")
    return torch.tensor([number / total for number in numbers])


def _mix(bits: T) -> T:
    """A 32-bit integer hash. Products stay below 2**63, so int64 tensors never overflow."""
    bits = bits & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    bits = ((bits ^ (bits >> 15)) * (0xD35A2D97 - 2**32)) & 0xFFFFFFFF
    return bits ^ (bits >> 15)
