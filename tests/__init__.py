"""A package, since torch-fidelity installs one of the same name, which would be found instead of a plain folder."""
