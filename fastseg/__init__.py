"""Fast spectral kernels for Fourier- and diffusion-based models on brain MRI."""

__version__ = "0.1.0"
