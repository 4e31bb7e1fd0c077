"""How much annotation is enough: trainings on parts of the labels, and the curve through them."""
