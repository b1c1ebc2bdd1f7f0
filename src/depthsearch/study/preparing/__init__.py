"""Loading what a study needs, from its options: backbones, images, device and workers."""
