"""PS3.5, PS3.6, PS3.10: elements, attributes from the head of a data set, Part 10, UIDs."""
