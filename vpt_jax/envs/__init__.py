"""Games behind the human interface: Gymnasium environments that take the MineRL key dict and give back a picture."""
