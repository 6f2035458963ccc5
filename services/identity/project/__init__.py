"""ProjectService: the parts an organization divides its keys, usage and money into."""
