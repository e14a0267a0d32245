"""The networks, the file they are exported to, and whole volumes and studies translated with them.

networks builds generator, encoder, mapper and discriminator; `swin_unet`, `convnext_unet` and `attention_unet` share
unet; masked holds what all share and the scale of images inside. weights is the exported model, translate takes whole
volumes through it, translator one study, slice_profile smooths across planes, atlas is where a study lies in the
population; random_features measures the distance between sets of images without a trained network.
"""
