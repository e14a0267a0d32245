"""The four networks: generator backbones, sequence encoder, mapper, discriminator."""
