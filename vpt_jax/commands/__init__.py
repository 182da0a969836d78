"""Commands of an installed package, such as `vpt-train`; each is the program of the same name in launch/."""
