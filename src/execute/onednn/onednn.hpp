#pragma once
// oneDNN's interface, quiet under -Wpedantic.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wextra"
#include <oneapi/dnnl/dnnl.hpp>
#pragma GCC diagnostic pop

#include "pare/version.hpp"

PARE_NAMESPACE_BEGIN

/// The process's CPU engine.
const dnnl::engine& cpu_engine();

PARE_NAMESPACE_END
