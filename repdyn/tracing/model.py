"""Traced models: read batches, run from a representation, patch representations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repdyn.tracing.plugins import interventions
from repdyn.tracing.pooling import Pooling
from repdyn.tracing.reader import Reader, Reading
from repdyn.tracing.spec import ModelSpec

__all__ = ["TracedModel"]


@dataclass(frozen=True, eq=False, repr=False)
class TracedModel(ModelSpec):
    """A model that can be traced. Adapters build it.

    Attributes
    ----------
    name
        As a user says it, ``"timm:resnet18"``.
    module
        What runs: called with the prepared inputs, positionally, or by keyword where they are a mapping.
    points
        All that can be read, by name.
    default_points
        What is read unless something else is asked for: the output of every block, then the pooled last.
    prepare
        From what a user has (strings, pictures, arrays), a list of samples, to a batch of model inputs.
    pooling
        What ``pool="auto"`` means: what the model's own head, or its users, pool by.
    final
        The point from which ``head`` goes on, pooled by ``pooling``; the last of the default points.
    head
        From the pooled last point ``(N, D)`` to logits ``(N, classes)``; None where the model has none.
    weights
        What the digest is taken of, where it is more than ``module``.
    own_logits
        From prepared inputs to the logits that the whole model gives, which ``head`` is checked against
        when a trace begins; None where the model says nothing of them.
    choices
        Names for groups of points: ``"stages"``, ``"attention"``, ``"mlp"``.
    preprocessing
        How inputs are prepared, in words, for the record.
    blank
        From a number of positions (tokens) to one sample without content, as ``prepare`` takes it; what
        :meth:`run_from` starts from where it is given no inputs. None where only the user knows.
    lengths
        How long samples are to the model, in tokens: those of nearly equal length share a batch. None
        where it cannot tell.
    padded
        Whether shorter samples may be padded to the length of longer ones. Where the model takes no mask of
        padding, a batch holds samples of one length.
    """

    def reader(
        self,
        points: str | Sequence[str] | None = None,
        pool: str | Pooling = "auto",
        *,
        grad: bool = False,
        device: torch.device | str | None = None,
    ) -> Reader:
        """A context in which batches are read as tensors, where the model is: one forward pass each.

        Parameters
        ----------
        points, pool
            As :func:`repdyn.trace` takes them.
        grad
            Keep the graph: gradients flow from what is read to the weights and to prepared inputs.
        device
            Where the model runs within the context; afterwards it is back where it was. Default: where it is.

        Returns
        -------
        Reader
            ``read(samples)`` prepares samples and reads them, ``read.prepared(inputs, count)`` what the
            module itself takes. Each gives a :class:`~repdyn.tracing.reader.Reading`: a mapping from
            points to tensors ``(N, D)`` on the model's device, with ``.logits``.

        Raises
        ------
        RepdynError
            If a point, the pooling or the device is unknown.

        Examples
        --------
        >>> import repdyn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)))
        >>> with model.reader() as read:
        ...     found = [read(batch)["1"] for batch in torch.zeros(2, 4, 2)]
        >>> found[1].shape
        torch.Size([4, 3])
        """
        return Reader(self, points, pool, grad=grad, device=device)

    def read(
        self, inputs: Sequence[Any], points: str | Sequence[str] | None = None, pool: str | Pooling = "auto"
    ) -> Reading:
        """Read some samples, not yet prepared, in one forward pass; see :meth:`reader`.

        Examples
        --------
        >>> import repdyn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)))
        >>> model.read(torch.zeros(4, 2))
        Reading(0 (4, 3), 1 (4, 3))
        """
        with self.reader(points, pool) as read:
            return read(inputs)

    def run_from(self, point: str, x: Tensor, inputs: Any = None, *, remote: bool | str = False) -> Tensor:
        r"""Continue a forward pass from a given representation.

        With :math:`f = h \circ g_p`, where :math:`g_p` leads to the point and :math:`h` from there to the
        logits, gives :math:`h(x)`. The model runs in evaluation mode and is left as it was found;
        gradients flow from the logits to ``x``. The first call from a point runs the whole model, to learn
        which blocks before it later calls can leave out.

        Parameters
        ----------
        point
            A name in :attr:`points`; ``name#1`` for the second call of a module that is called twice.
        x
            The representation as the module gives it, not pooled: ``(N, L, C)``, ``(N, C, H, W)``, … by
            the point's declared layout. Where a module gives several tensors, the first is replaced.
        inputs
            The prepared inputs that ``x`` belongs to. Needed wherever something passes the point by: the
            mask of padded texts, what an encoder gives to a decoder. Without them, blank ones are taken,
            and it is checked that the logits do not depend on them.
        remote
            Passed on to nnsight: true, or the address of a host, runs a model of the Hugging Face hub
            there; ``"local"`` rehearses that here.

        Returns
        -------
        Tensor
            ``(N, classes)``: what ``head`` gives of the pooled last point; for a model without a head, its
            own output.

        Raises
        ------
        RepdynError
            If there is no such point, ``x`` does not fit there, or inputs are needed and not given.

        Examples
        --------
        >>> import repdyn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
        >>> z = torch.randn(5, 2)
        >>> x = model.module[0](z)
        >>> torch.equal(model.run_from("0", x, z), model.module(z))
        True
        """
        found: Tensor = interventions().run_from(self, point, x, inputs, remote)
        return found

    def patched(
        self, functions: Mapping[str, Callable[[Tensor], Tensor]], *, remote: bool | str = False
    ) -> Callable[[Any], Tensor]:
        """The model with functions of its representations in place.

        Parameters
        ----------
        functions
            For each point a function from its representation, not pooled, to another of the same shape.
            At a module that is called several times it acts on every call, or under ``name#1`` on the
            second. Functions see what those before them have changed.
        remote
            Passed on to nnsight, as in :meth:`run_from`.

        Returns
        -------
        callable
            From prepared inputs (:attr:`prepare`) to logits, as :meth:`run_from` gives them. The module
            itself is not changed.

        Raises
        ------
        RepdynError
            If there is no such point or it is never called, or a function gives another shape.

        Examples
        --------
        >>> import repdyn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
        >>> model.patched({"0": torch.zeros_like})(torch.randn(5, 2)).shape
        torch.Size([5, 4])
        """
        found: Callable[[Any], Tensor] = interventions().patched(self, functions, remote)
        return found
