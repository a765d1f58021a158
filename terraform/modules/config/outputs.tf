output "config_toml" {
  description = "The configuration, for `holdfast --config FILE`."
  value       = local.config_toml
}

output "files" {
  description = "All files that the configuration needs in one folder, by name: itself as holdfast.toml, and credentials without secrets."
  value       = merge(concat([{ "holdfast.toml" = local.config_toml }], [for store in values(var.stores) : store.files])...)
}
