"""Where the time really goes: every node measured, beside its estimate and its bound."""
