"""DreamBooth (Ruiz 2023): a prior learns one subject from a few images of it, under a rare word."""
