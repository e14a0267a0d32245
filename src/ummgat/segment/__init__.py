"""Segmenters: a complete set of images in, labels out. The own U-Net, its training, and foreign models."""
