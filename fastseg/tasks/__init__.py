"""What a trained network is for: segmentation, or the synthesis of missing modalities."""
