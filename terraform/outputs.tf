output "config_toml" {
  description = "The writer's configuration: terraform output -raw config_toml > holdfast.toml. No secret is in it."
  value       = module.config["writer"].config_toml
}

output "configs" {
  description = "By role (writer, pruner, reader): its configuration."
  value       = { for role in local.roles : role => module.config[role].config_toml }
}

output "files" {
  description = "By role: all files that its configuration needs in one folder, by name. No secret is in them."
  value       = { for role in local.roles : role => module.config[role].files }
}

output "urls" {
  description = "By store: its URL."
  value       = { for name, store in local.stores.writer : name => store.url }
}

output "token_audiences" {
  description = "By store: the audience of the token that a workflow or cluster fetches for it."
  value       = { for name in local.names : name => local.audiences[name] }
}
