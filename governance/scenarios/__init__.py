"""Risk scenarios as data: one YAML file each, schema in ``scenario.schema.json``; see docs/sign-off.md for what the fields mean."""
