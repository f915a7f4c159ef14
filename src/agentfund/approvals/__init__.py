"""A person's yes or no to exact orders: at a terminal, on a page of this machine."""
