"""A grounder of published weights alone, from the names of a reader and a refiner."""
