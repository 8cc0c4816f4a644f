"""What the input of a method is: features of a frozen network, or pixels."""
