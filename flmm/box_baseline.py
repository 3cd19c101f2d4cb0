"""The baseline every table needs: the frozen model's own box, turned into a mask by SAM."""
