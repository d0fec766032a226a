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
        Name for :func:`repdyn.load`, such as ``"timm:resnet18"``.
    module
        The module that runs. It is called with the prepared inputs: positionally, or by keyword if they are a
        mapping.
    points
        All points that can be read, by name.
    default_points
        The points that are read by default: the output of every block, then the pooled last one.
    prepare
        Function from a list of samples (strings, pictures, arrays) to a batch of model inputs.
    pooling
        The pooling of ``pool="auto"``: that of the model's own head, or of its usual users.
    final
        The point that ``head`` reads, pooled by ``pooling``; the last of the default points.
    head
        Function from the pooled last point ``(N, D)`` to logits ``(N, classes)``; None without a head.
    weights
        Module whose weights the digest covers; default: ``module``.
    own_logits
        Function from prepared inputs to the logits of the whole model, which are compared with those of
        ``head`` when a trace begins; None if unknown.
    choices
        Names for groups of points: ``"stages"``, ``"attention"``, ``"mlp"``.
    preprocessing
        Description of the preparation of inputs, for the metadata.
    blank
        Function from a number of positions (tokens) to one sample without content, for ``prepare``.
        :meth:`run_from` uses it if it is given no inputs. None if unknown.
    lengths
        Function from samples to their lengths in tokens: samples of similar length share a batch. None if
        unknown.
    padded
        Whether shorter samples may be padded to the length of longer ones. If the model takes no padding
        mask, a batch holds samples of one length.
    """

    def reader(
        self,
        points: str | Sequence[str] | None = None,
        pool: str | Pooling = "auto",
        *,
        grad: bool = False,
        device: torch.device | str | None = None,
    ) -> Reader:
        """A context that reads batches as tensors on the model's device, with one forward pass each.

        Parameters
        ----------
        points, pool
            As in :func:`repdyn.trace`.
        grad
            Keep the graph: gradients flow from the representations to the weights and prepared inputs.
        device
            Device of the model within the context; it is moved back afterwards. Default: its current device.

        Returns
        -------
        Reader
            ``read(samples)`` prepares and reads samples, ``read.prepared(inputs, count)`` reads inputs of the
            module. Each returns a :class:`~repdyn.tracing.reader.Reading`: a mapping from points to tensors
            ``(N, D)`` on the model's device, with ``.logits``.

        Raises
        ------
        RepdynError
            If a point, the pooling or the device is unknown.

        Examples
        --------
        >>> import repdyn
        >>> from torch import nn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)))
        >>> with model.reader() as read:
        ...     readings = [read(batch)["1"] for batch in torch.zeros(2, 4, 2)]
        >>> readings[1].shape
        torch.Size([4, 3])
        """
        return Reader(self, points, pool, grad=grad, device=device)

    def read(
        self, inputs: Sequence[Any], points: str | Sequence[str] | None = None, pool: str | Pooling = "auto"
    ) -> Reading:
        """Prepare and read samples in one forward pass; see :meth:`reader`.

        Examples
        --------
        >>> import repdyn
        >>> from torch import nn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)))
        >>> model.read(torch.zeros(4, 2))
        Reading(0 (4, 3), 1 (4, 3))
        """
        with self.reader(points, pool) as read:
            return read(inputs)

    def run_from(self, point: str, x: Tensor, inputs: Any = None, *, remote: bool | str = False) -> Tensor:
        r"""Continue a forward pass from a given representation.

        With :math:`f = h \circ g_p`, where :math:`g_p` leads to the point and :math:`h` from there to the
        logits, returns :math:`h(x)`. The model runs in evaluation mode and its state is restored. Gradients
        flow from the logits to ``x``. The first call from a point runs the whole model, to find which blocks
        before the point later calls can skip.

        Parameters
        ----------
        point
            A name in :attr:`points`; ``name#1`` for the second call of a module that is called twice.
        x
            The module's output without pooling: ``(N, L, C)``, ``(N, C, H, W)``, …, in the point's layout. If
            the module returns several tensors, the first is replaced.
        inputs
            The prepared inputs that ``x`` belongs to. They are needed if information bypasses the point: the
            padding mask, or the output of an encoder for a decoder. Without them, blank inputs are used, and
            the logits are checked not to depend on them.
        remote
            Passed on to nnsight: true, or the address of a host, runs a model of the Hugging Face hub there.
            ``"local"`` runs the same request on this machine.

        Returns
        -------
        Tensor
            Logits ``(N, classes)`` of the head; for a model without a head, its output.

        Raises
        ------
        RepdynError
            If the point does not exist, ``x`` has another shape, or inputs are needed and not given.

        Examples
        --------
        >>> import repdyn
        >>> from torch import nn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
        >>> z = torch.randn(5, 2)
        >>> x = model.module[0](z)
        >>> torch.equal(model.run_from("0", x, z), model.module(z))
        True
        """
        logits: Tensor = interventions().run_from(self, point, x, inputs, remote)
        return logits

    def patched(
        self, functions: Mapping[str, Callable[[Tensor], Tensor]], *, remote: bool | str = False
    ) -> Callable[[Any], Tensor]:
        """The model with functions applied to its representations.

        Parameters
        ----------
        functions
            For each point a function from its representation (not pooled) to one of the same shape. For a
            module that is called several times it applies to every call, or as ``name#1`` to the second.
            Functions receive representations that earlier functions have changed.
        remote
            Passed on to nnsight, as in :meth:`run_from`.

        Returns
        -------
        callable
            Function from prepared inputs (:attr:`prepare`) to the logits of :meth:`run_from`. The module
            itself is not changed.

        Raises
        ------
        RepdynError
            If a point does not exist or is never called, or a function returns another shape.

        Examples
        --------
        >>> import repdyn
        >>> from torch import nn
        >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
        >>> model.patched({"0": torch.zeros_like})(torch.randn(5, 2)).shape
        torch.Size([5, 4])
        """
        function: Callable[[Any], Tensor] = interventions().patched(self, functions, remote)
        return function
