"""Quality control of prepared studies: names, copies, registration, strip, field of view, likeness to what was learnt."""
