#pragma once

#include <map>
#include <string>

#include "pare/checkpoint/checkpoint_options.hpp"
#include "pare/graph/model.hpp"

PARE_NAMESPACE_BEGIN

/// Writes a Model, pruned and quantized as it is, as one file: a safetensors file of its weights whose metadata holds
/// the recipe, JSON that a person can read: the graph's text, and for each weight what it is, which channels of the
/// original are left, and how it is stored.
///
///     pare::save_checkpoint(int8.model, "int8.pare");
///     pare::Model model = pare::load_checkpoint("int8.pare");            // without the module's code
///
///     pare::save_checkpoint(pruned.model, "pruned.pare");
///     pare::Model fresh = pare::capture(plain_net, example);             // against the user's plain module
///     pare::Model model = pare::load_checkpoint("pruned.pare", fresh);
///     pare::commit(model, plain_net);                                    // now plain_net is the pruned one
///
/// A weight that only fake-quantizes read is stored as the integers that they make of it, int4 packed by two: the file
/// has the size that the report claims. The Model that is loaded gives the same outputs, bit for bit. With
/// `CheckpointOptions::pack` off the float numbers are kept instead, to go on training.
///
/// The path holds the old file or the new one, whole, whenever the process is stopped.
///
/// @throws Error `pare.checkpoint.120` a weight whose dtype the format has no name for, `.121` the file cannot be
///         written, `.135` a graph with an operand that has no text (a generator), `pare.graph.210` an operator that
///         reaches beyond its operands' memory (`as_strided`), `.211` a result of another type than the graph says
void save_checkpoint(const Model& model, const std::string& path, const CheckpointOptions& options = {});

/// Reads what `save_checkpoint` wrote. What is read has been checked: the checksum, the graph, and that every weight
/// fits it.
///
/// @throws Error as `SafeTensors`, and `pare.checkpoint.130` a safetensors file that is no checkpoint, `.131` one of a
///         later version, `.132` a wrong checksum, `.133` a recipe that is broken or does not fit the tensors
[[nodiscard]] Model load_checkpoint(const std::string& path);

/// The same for a Model that shall go back into a live module: `captured` is that module, captured as its code makes
/// it. The Model that is loaded can be committed into it.
///
/// @throws Error also `pare.checkpoint.134` when `captured` has not the weights, in the shapes, that the checkpoint was
///         made from
[[nodiscard]] Model load_checkpoint(const std::string& path, const Model& captured);

PARE_NAMESPACE_END
