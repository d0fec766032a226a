"""SKD and SSM-SKD: one operator for a batch, or one for each sequence."""

from __future__ import annotations

from collections.abc import Sequence

from repdyn.disentangle.losses import Weights
from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["SKD", "SSMSKD"]


class SKD(StructuredKoopman):
    """Structured Koopman disentanglement: one operator for a batch, several static eigenvalues.

    Parameters are those of :class:`StructuredKoopman`, with the published values for Sprites as defaults.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((24, 5, 3)).astype("float32")
    >>> model = SKD(static_dim=2, latent_dim=4, hidden=8).fit(x, epochs=2)
    >>> model.swap(x[:3], x[3:6], "static").first.shape
    (3, 5, 3)

    References
    ----------
    Berman, N., Naiman, I. and Azencot, O. (2023). Multifactor sequential disentanglement via structured
    Koopman autoencoders. ICLR.
    """

    operator = "batch"

    def __init__(
        self,
        static_dim: int = 8,
        latent_dim: int = 40,
        hidden: int = 80,
        channels: Sequence[int] | None = None,
        extraction: str = "eigenvector",
        threshold: float = 0.5,
        weights: Weights | None = None,
    ) -> None:
        published = Weights(15.0, 1.0, 1.0) if weights is None else weights
        super().__init__(static_dim, latent_dim, hidden, channels, extraction, threshold, published)


class SSMSKD(StructuredKoopman):
    """Single static mode SKD: an operator for each sequence, with one eigenvalue at one.

    Parameters are those of :class:`StructuredKoopman`, with the published values for Sprites as defaults.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((24, 6, 3)).astype("float32")
    >>> model = SSMSKD(latent_dim=4, hidden=8).fit(x, epochs=2)
    >>> parts = model.factors(x)
    >>> bool(np.allclose(parts.static + parts.dynamic, model.encode(x), atol=1e-5))
    True

    References
    ----------
    Hason, A. (2024). Single static mode structured Koopman disentanglement. MSc thesis, Ben-Gurion
    University.
    """

    operator = "sequence"

    def __init__(
        self,
        static_dim: int = 1,
        latent_dim: int = 15,
        hidden: int = 170,
        channels: Sequence[int] | None = None,
        extraction: str = "coordinate",
        threshold: float = 0.75,
        weights: Weights | None = None,
    ) -> None:
        published = Weights() if weights is None else weights
        super().__init__(static_dim, latent_dim, hidden, channels, extraction, threshold, published)
