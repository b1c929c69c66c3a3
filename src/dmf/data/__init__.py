"""The way of the data: archive or phantom, raw images, filtered arrays, splits."""
