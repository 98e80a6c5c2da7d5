# Finds what pare builds on. CMAKE_PREFIX_PATH comes first; nothing is downloaded. In a checkout that scripts/setup
# prepared, its virtual environment is offered last.
set(pare_venv "$ENV{PARE_VENV}")
if(NOT pare_venv)
  set(pare_venv "${PROJECT_SOURCE_DIR}/.venv")
endif()
if(PROJECT_IS_TOP_LEVEL AND EXISTS "${pare_venv}")
  file(GLOB pare_venv_torch "${pare_venv}/lib/python3*/site-packages/torch")
  list(APPEND CMAKE_PREFIX_PATH ${pare_venv_torch} "${pare_venv}")
endif()

find_package(Torch 2.6 REQUIRED)
find_package(fmt REQUIRED)
find_package(Eigen3 REQUIRED NO_MODULE)
find_package(nlohmann_json REQUIRED)
# Headers only, and only inside the library: the wire format of ONNX without a protobuf runtime beside LibTorch's.
find_path(PARE_PROTOZERO_INCLUDE protozero/pbf_writer.hpp REQUIRED)

set(PARE_HAS_ONEDNN OFF)
if(PARE_WITH_ONEDNN)
  find_package(dnnl 3.2 QUIET)
  if(dnnl_FOUND)
    set(PARE_HAS_ONEDNN ON)
    message(STATUS "pare: oneDNN ${dnnl_VERSION} from ${dnnl_DIR}")
  else()
    message(STATUS "pare: oneDNN 3.2 or newer not found; compile() will run on ATen")
  endif()
endif()
