#include "../foreign.h"
