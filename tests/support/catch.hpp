#pragma once
// Catch2 2 and 3 under one include.
#ifdef PARE_CATCH2_V3
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
