"""Denoising diffusion GANs (Xiao et al. 2022): few large steps with a multimodal denoiser."""
