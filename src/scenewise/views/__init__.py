"""Views: slots -> regions -> one decode -> rendering -> batch. Geometry comes before pixels, chance comes from keys."""
