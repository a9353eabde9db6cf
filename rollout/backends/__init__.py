"""Who makes traffic true: one interface in ``base``, one module per technology. Adding one touches one new file."""
