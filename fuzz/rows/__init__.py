"""What is drawn of every operator, a module a family. A row: name, how to add it, its rule."""
