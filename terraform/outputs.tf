output "config_toml" {
  description = "The writer's configuration: terraform output -raw config_toml > holdfast.toml. No secret is in it."
  value       = module.config["writer"].config_toml
}

output "configs" {
  description = "By role (writer, pruner, reader): its configuration."
  value       = { writer = module.config["writer"].config_toml, pruner = module.config["pruner"].config_toml, reader = module.config["reader"].config_toml }
}

output "files" {
  description = "By role: all files that its configuration needs in one folder, by name. No secret is in them."
  value       = { writer = module.config["writer"].files, pruner = module.config["pruner"].files, reader = module.config["reader"].files }
}

output "urls" {
  description = "By store: its URL."
  value       = { for name, store in local.stores.writer : name => store.url }
}

output "token_audiences" {
  description = "By store: the audience of the token that a workflow or cluster fetches for it."
  value       = { for name in local.names : name => local.audiences[name] }
}
