"""Files of exported usage: writing them so that a kill costs nothing, reading them back, and checking them."""
