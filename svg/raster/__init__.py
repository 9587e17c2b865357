"""From the model and tensors to images, differentiably."""
