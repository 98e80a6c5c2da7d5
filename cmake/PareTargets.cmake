# What every target of ours shares.

# Warnings as errors, and sanitizers where asked for.
function(pare_own_code target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic)
  if(PARE_DEVELOPER_MODE)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(PARE_SANITIZE)
    target_compile_options(${target} PUBLIC -fsanitize=address,undefined -fno-omit-frame-pointer -g1)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
endfunction()

# The back end lives in its own objects: LibTorch ships newer oneDNN headers than the library we link, so ours must come
# first on the include path.
function(pare_link_onednn target)
  file(GLOB onednn_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/execute/onednn/*.cpp")
  if(NOT PARE_HAS_ONEDNN OR NOT onednn_sources)
    return()
  endif()
  target_sources(${target} PRIVATE ${onednn_sources})
  get_target_property(onednn_include DNNL::dnnl INTERFACE_INCLUDE_DIRECTORIES)
  target_include_directories(${target} BEFORE PRIVATE ${onednn_include})
  # oneDNN and LibTorch share one OpenMP runtime; its team size is set for each call.
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(${target} PRIVATE DNNL::dnnl OpenMP::OpenMP_CXX)
  target_compile_definitions(${target} PRIVATE PARE_HAS_ONEDNN=1)
endfunction()

# An executable of ours on pare and one shared precompiled header.
function(pare_executable name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE pare::pare)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}")
  pare_own_code(${name})
  if(NOT TARGET pare_pch)
    file(WRITE "${PROJECT_BINARY_DIR}/pare_pch.cpp" "")
    add_library(pare_pch OBJECT "${PROJECT_BINARY_DIR}/pare_pch.cpp")
    target_link_libraries(pare_pch PRIVATE pare::pare)
    pare_own_code(pare_pch)
    target_precompile_headers(pare_pch PRIVATE <torch/torch.h> <fmt/format.h>)
    set_target_properties(pare_pch PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  endif()
  target_precompile_headers(${name} REUSE_FROM pare_pch)
endfunction()
