#include "pare/core/error.hpp"
