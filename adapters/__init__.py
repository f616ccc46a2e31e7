"""The built-in tuning methods, one file each. They are found through entry points, like anyone's."""
