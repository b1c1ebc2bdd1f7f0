"""What single layers of a classifier see in an image, before and after fine-tuning."""
